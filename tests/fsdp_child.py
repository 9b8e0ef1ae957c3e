"""`actune` under FSDP2 on CPUs: torch shares out a model there too, only accelerate and we keep it for accelerators."""

import sys
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from actune.cli import app
from actune.tune import several

before = AcceleratorState.__init__


def opened(self: Any, *args: Any, **kwargs: Any) -> None:
    before(self, *args, **kwargs)
    plugin = kwargs.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin")
    if plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin


AcceleratorState.__init__ = opened
several.refuse_sharded = lambda device: None
app()(sys.argv[1:])
