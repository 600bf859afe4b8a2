"""A worker that dies over its first case. In a file of its own: it starts in a process that need not import torch."""

import os


def dies(pipe, _directory, _settings):
    pipe.recv_bytes()
    os._exit(3)
