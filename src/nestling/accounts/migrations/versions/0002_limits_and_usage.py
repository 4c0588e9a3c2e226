"""Kinds, scopes and limits of keys; reservations and usage."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Extend the table of keys and create those of usage."""
    with op.batch_alter_table("api_key") as keys:
        keys.alter_column("name", existing_type=sa.String(100), nullable=True)
        keys.add_column(sa.Column("kind", sa.String(10), nullable=False, server_default="api"))
        keys.add_column(sa.Column("scopes", sa.Text))
        keys.add_column(sa.Column("limit_retention", sa.String(10)))
        keys.add_column(sa.Column("limit_nano_usd", sa.BigInteger))
    op.create_table(
        "key_change",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO key_change (id, count) VALUES (1, 0)")
    op.create_table(
        "reservation",
        sa.Column("inference_id", sa.String(64), primary_key=True),
        *_inference_columns(),
    )
    op.create_index("ix_reservation_key_id", "reservation", ["key_id"])
    op.create_table(
        "usage",
        sa.Column("usage_id", sa.Integer, primary_key=True),
        sa.Column("inference_id", sa.String(64), nullable=False, unique=True),
        *_inference_columns(),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("succeeded", sa.Boolean, nullable=False),
        sa.Column("ttft_ms", sa.Float),
        sa.Column("duration_ms", sa.Float, nullable=False),
    )
    op.create_index("ix_usage_key_id_started_at", "usage", ["key_id", "started_at"])
    op.create_table(
        "key_spend",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("nano_usd", sa.BigInteger, nullable=False),
    )


def _inference_columns() -> Sequence[sa.Column[object]]:
    return (
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("key_prefix", sa.String(8), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("client_request_id", sa.String(128)),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("is_streamed", sa.Boolean, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("nano_usd", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop what was added; keys without a name cannot go back and are given one."""
    for name in ("key_spend", "usage", "reservation", "key_change"):
        op.drop_table(name)
    op.execute("DELETE FROM api_key WHERE kind = 'management'")
    op.execute("UPDATE api_key SET name = prefix WHERE name IS NULL")
    with op.batch_alter_table("api_key") as keys:
        for name in ("limit_nano_usd", "limit_retention", "scopes", "kind"):
            keys.drop_column(name)
        keys.alter_column("name", existing_type=sa.String(100), nullable=False)
