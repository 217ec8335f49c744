import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # in the processes that tests start: no spinning for a core that another test uses

from helpers.threads import one_thread as one_thread
