"""A small Django application for `django_orm.py`."""
