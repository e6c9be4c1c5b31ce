"""What this machine is: CPU, memory, Jetson module and JetPack, NVIDIA GPUs, and the packages that can run models."""
