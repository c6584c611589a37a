"""A proxy manager: users, upstream proxies, blacklist rules and the activity they cause."""
