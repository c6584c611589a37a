"""What the gateway says of itself over HTTP: the metrics page.

`metrics.py` knows what is on it, `desk.py` serves it, `page.py` does so for one process on its
loop, `board.py` for several workers in their supervisor. Needs no mitmproxy.
"""
