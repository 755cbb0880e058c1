"""The embedded farm: a child process with the farmers of this machine, started again when it dies."""

import logging

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
HEALTHY_AFTER = 60.0
