"""Folders of frames and flow, as other tools have them."""
