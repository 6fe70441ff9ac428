"""Streaming physiology: detection, rhythm, alarms."""
