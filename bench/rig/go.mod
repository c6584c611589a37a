module bench/rig

go 1.21
