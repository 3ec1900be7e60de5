"""An index that is made beside running writes, which no transaction may do."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("kitchen", "0003_prices")]
    operations = [AddIndexConcurrently("Dish", models.Index(fields=["price"], name="dish_price"))]
