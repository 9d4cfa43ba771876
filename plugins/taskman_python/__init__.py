"""The `python` task type: functions of modules that the worker can import.

Nothing is imported here, so that the processes which call functions start quickly; the plugin is `plugin.py`.
"""
