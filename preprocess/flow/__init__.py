"""Frames to optical flow: engines, their registry, and flow as it is stored."""
