"""Real servers for every test that asks for one."""

pytest_plugins = ["shop_cluster.pytest_plugin"]
