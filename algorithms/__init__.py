"""Pure methods: how candidates are searched, which lever is pulled, how weights learn.

None knows a service or the log.
"""
