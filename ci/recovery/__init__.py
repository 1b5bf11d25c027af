"""Backups and disaster recovery: what is kept of each store, how it is checked, how it comes back.

sets.py        a backup set: its manifest, where sets are kept, what can be wrong with one
postgres.py    the room for PostgreSQL: base backups, dumps, point-in-time recovery
redis.py       the room for Redis: RDB files
blobs.py       the room for Blob Storage: snapshots in a second account
azure.py       the same on Azure: each disaster's steps, as exact lines for this architecture
runbooks.py    those steps as documents
"""
