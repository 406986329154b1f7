"""What tools/nfs-load.py is made of."""
