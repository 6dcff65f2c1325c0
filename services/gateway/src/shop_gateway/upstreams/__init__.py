"""The services behind the gateway: how one is asked, how often, and when it is spared."""
