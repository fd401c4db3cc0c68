"""Background jobs of a shell ignore Ctrl-C, and what they start inherits that; tests press it, so it must be heard."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
