"""Training at the limit of the machine, through the seams of transformers and peft; proved equal at the run's start."""
