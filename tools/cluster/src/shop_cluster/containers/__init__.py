"""`make docker-check`: the images built, and the services run from them."""
