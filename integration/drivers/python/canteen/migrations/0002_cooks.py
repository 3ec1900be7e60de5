"""Data is moved into another table between changes of the schema."""

import django.db.models.deletion
from django.db import migrations, models


def makers_become_cooks(apps, editor):
    using = editor.connection.alias
    cooks = apps.get_model("canteen", "Cook").objects.using(using)
    for dish in apps.get_model("canteen", "Dish").objects.using(using).exclude(maker=None).iterator():
        dish.cook, _ = cooks.get_or_create(name=dish.maker)
        dish.save()


def cooks_become_makers(apps, editor):
    dishes = apps.get_model("canteen", "Dish").objects.using(editor.connection.alias)
    for dish in dishes.exclude(cook=None).select_related("cook"):
        dish.maker = dish.cook.name
        dish.save()


class Migration(migrations.Migration):
    dependencies = [("canteen", "0001_initial")]
    operations = [
        migrations.AddField(
            "Dish",
            "cook",
            models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="dishes",
                to="canteen.cook",
            ),
        ),
        migrations.RunPython(makers_become_cooks, cooks_become_makers),
        migrations.RemoveField("Dish", "maker"),
    ]
