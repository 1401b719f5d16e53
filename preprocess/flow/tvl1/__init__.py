"""TV-L1 optical flow: its definition (`reference.py`) and the engines that compute it."""
