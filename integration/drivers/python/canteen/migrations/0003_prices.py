"""Changes of types, constraints and indexes, each of which copies or checks the table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("canteen", "0002_cooks")]
    operations = [
        migrations.AlterField("Dish", "price", models.DecimalField(decimal_places=2, default=0, max_digits=8)),
        migrations.AlterField("Dish", "name", models.CharField(max_length=80, unique=True)),
        migrations.AddField("Dish", "served", models.DateTimeField(db_index=True, null=True)),
        migrations.AddConstraint(
            "Dish",
            models.CheckConstraint(condition=models.Q(("price__gte", 0)), name="price_not_negative"),
        ),
        migrations.RunSQL("CREATE VIEW cheap AS SELECT * FROM canteen_dish WHERE price < 10", "DROP VIEW cheap"),
    ]
