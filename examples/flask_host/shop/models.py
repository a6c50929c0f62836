"""Who uses the shop, and what they used of the gateway."""

from __future__ import annotations

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import JSON, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What Flask-SQLAlchemy makes its models of."""


db = SQLAlchemy(model_class=Base)


class User(Base):
    """Somebody who may log in. The four below are what Flask-Login asks of a user."""

    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    password_hash: Mapped[str]
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))  # None: all
    max_concurrency: Mapped[int] = mapped_column(default=2)
    is_banned: Mapped[bool] = mapped_column(default=False)

    is_authenticated = True
    is_active = True
    is_anonymous = False

    def get_id(self) -> str:
        return str(self.id)


class Bill(Base):
    """One call of the gateway."""

    __tablename__ = "bill"

    id: Mapped[int] = mapped_column(primary_key=True)
    call_id: Mapped[str] = mapped_column(index=True)  # its caller may have chosen it: not unique
    caller: Mapped[str] = mapped_column(index=True)
    model: Mapped[str]
    end: Mapped[str]
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
