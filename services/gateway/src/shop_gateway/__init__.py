"""The one public origin: routes, the gathered dashboard, and the edge."""
