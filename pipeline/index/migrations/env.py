"""Alembic's entry point: runs migrations on the connection that `database` hands over, for one output's tables."""

from alembic import context

given = context.config.attributes
context.configure(
    connection=given["connection"],
    transactional_ddl=False,
    render_as_batch=True,
    version_table=given["prefix"] + "schema",
)
context.run_migrations()
