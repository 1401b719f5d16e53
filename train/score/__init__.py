"""Scores of videos, and what they come to."""
