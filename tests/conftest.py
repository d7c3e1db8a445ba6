"""What holds for all tests."""

import signal

# A shell starts what runs in its background with SIGINT ignored, and so would every process that a test starts. A
# handler of our own is not inherited: they get the default, as under a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
