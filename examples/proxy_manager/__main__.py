"""`python -m examples.proxy_manager`: serve, or administer the database."""

from examples.proxy_manager.cli import main

raise SystemExit(main())
