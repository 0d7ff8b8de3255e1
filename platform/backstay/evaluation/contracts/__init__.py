"""Consumer contracts and the guard on updates: what a candidate version would break."""
