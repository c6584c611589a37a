"""What tests share: real parts to start, and ways to disturb them."""
