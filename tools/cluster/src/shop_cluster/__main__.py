"""`python -m shop_cluster`."""

from shop_cluster.cli import main

main()
