"""`python -m shop_k8s`."""

from shop_k8s.cli import main

main()
