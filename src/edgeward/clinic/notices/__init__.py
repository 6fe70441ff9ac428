"""Notices of alarms: to alarm managers, record systems and people on call. Runs in the role `deliver`."""
