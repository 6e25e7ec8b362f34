"""What systems do differently, under the same names: `posix` and `windows`.

Owns every difference that the worker has to know besides how trainers are started, which the executors own. What the
names promise stands with the functions of `posix`.
"""

import sys

if sys.platform == "win32":
    from training.fleet.system.windows import (
        HIDDEN,
        LONGEST_ROOT,
        PATIENCE_S,
        STOP_LOOK_S,
        awake,
        cores,
        everybody_can_read,
        everybody_can_rename_in,
        everybody_can_write,
        gpu_tool,
        is_link,
        is_plain_folder,
        lock,
        long_path,
        other_owner,
        others_can_write,
        private,
        private_command,
        ram_bytes,
        replace,
        state_folder,
        unlink,
        user,
    )
else:
    from training.fleet.system.posix import (
        HIDDEN,
        LONGEST_ROOT,
        PATIENCE_S,
        STOP_LOOK_S,
        awake,
        cores,
        everybody_can_read,
        everybody_can_rename_in,
        everybody_can_write,
        gpu_tool,
        is_link,
        is_plain_folder,
        lock,
        long_path,
        other_owner,
        others_can_write,
        private,
        private_command,
        ram_bytes,
        replace,
        state_folder,
        unlink,
        user,
    )

__all__ = [
    "HIDDEN",
    "LONGEST_ROOT",
    "PATIENCE_S",
    "STOP_LOOK_S",
    "awake",
    "cores",
    "everybody_can_read",
    "everybody_can_rename_in",
    "everybody_can_write",
    "gpu_tool",
    "is_link",
    "is_plain_folder",
    "lock",
    "long_path",
    "other_owner",
    "others_can_write",
    "private",
    "private_command",
    "ram_bytes",
    "replace",
    "state_folder",
    "unlink",
    "user",
]
