"""The engine: functions, their queues and their worker processes."""
