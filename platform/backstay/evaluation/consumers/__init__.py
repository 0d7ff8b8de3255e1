"""Consumer models: tasks and labels, the network, its training and inputs."""
