"""The mathematics: schedules, the diffusion process, samplers and guidance. No config, network or I/O."""
