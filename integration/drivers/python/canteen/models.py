from django.db import models


class Cook(models.Model):
    name = models.CharField(max_length=80, unique=True)


class Dish(models.Model):
    name = models.CharField(max_length=80, unique=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    facts = models.JSONField(default=dict)
    photo = models.BinaryField(null=True)
    cook = models.ForeignKey(Cook, models.PROTECT, null=True, related_name="dishes")
    served = models.DateTimeField(null=True, db_index=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(price__gte=0), name="price_not_negative")]
