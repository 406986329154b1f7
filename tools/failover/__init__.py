"""Parts of tools/failover-loop.py: the lab, the load, the kinds of failures, the loop."""
