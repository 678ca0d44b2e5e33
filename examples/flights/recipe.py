"""Will this flight arrive more than 15 minutes late? Told before it leaves New York, by a small network with embeddings.

    velodrome run recipe.py

`prepare.py` makes the files and documents their columns. `features` is all that the network ever sees: `dep_delay` and
`arr_delay` are in the files, as they would be in a real table, and known too late. Left out as well: `day_of_year`, because
every day that is judged lies beyond those trained on, and the plane's maker, type and engines, which its model implies.
"""

from typing import Any

import torch

import velodrome as vd

flights = vd.Dataset(
    "flights",
    source=vd.Files("data/flights-2013-*.parquet"),
    key="flight_id",
    time="scheduled",
    contract=vd.Contract(
        [
            vd.Types({"distance": "int64", "hour": "int64", "late": "int64", "scheduled": "datetime"}, action="stop"),
            vd.NotNull("late"),  # cancelled and diverted flights never arrived, late or not
            vd.OneOf("late", [0, 1]),
            vd.NotNull(["scheduled", "carrier", "dest"]),
            vd.OneOf("origin", ["EWR", "JFK", "LGA"]),
            vd.Between("distance", 0, 6000),
            vd.Between("highest_wind_6h", 0, 150),  # one gauge read 1,048 mph
            # Nobody is late by more than a day: a file that says so was measured in other units, and its labels are wrong.
            vd.Between("dep_delay", -120, 1440, action="stop"),
            vd.Between("arr_delay", -120, 1440, action="stop"),
            vd.Between("temperature", -40, 120, action="warn"),
            vd.Unique("flight_id"),
        ]
    ),
    owner="flights-ml",
)


class LateArrivals(torch.nn.Module):
    """Embeddings of the categories, beside the numbers, through two hidden layers; answers with logits (rows,)."""

    def __init__(self, inputs: list[dict[str, Any]], width: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        categories = {field["name"]: field["cardinality"] for field in inputs if field["cardinality"]}
        self.categories = list(categories)
        self.numbers = [field["name"] for field in inputs if not field["cardinality"]]
        self.embeddings = torch.nn.ModuleList(_embedding(size) for size in categories.values())
        joined = sum(embedding.embedding_dim for embedding in self.embeddings) + len(self.numbers)
        self.layers = torch.nn.Sequential(
            *(torch.nn.Linear(joined, width), torch.nn.ReLU(), torch.nn.Dropout(dropout)),
            *(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Dropout(dropout)),
            torch.nn.Linear(width, 1),
        )

    def forward(self, **columns: torch.Tensor) -> torch.Tensor:
        """`columns`: codes int64 (rows,) and numbers float32 (rows,), by name."""
        embedded = [embed(columns[name]) for name, embed in zip(self.categories, self.embeddings, strict=True)]
        numbers = torch.stack([columns[name] for name in self.numbers], dim=1)
        return self.layers(torch.cat([*embedded, numbers], dim=1)).squeeze(1)


def _embedding(size: int) -> torch.nn.Embedding:
    embedding = torch.nn.Embedding(size, min(16, (size + 1) // 2))
    torch.nn.init.normal_(embedding.weight, std=0.05)  # torch's own start, std 1, drowns the numbers
    return embedding


def build(inputs: list[dict[str, Any]]) -> torch.nn.Module:
    """The network for the prepared inputs."""
    return LateArrivals(inputs)


recipe = vd.Recipe(
    "late-arrivals",
    data=flights,
    label="late",
    features=[
        *["carrier", "origin", "dest", "distance", "weekday", "hour", "minute", "departures_this_hour"],
        *["plane_model", "plane_age", "plane_seats"],
        *["temperature", "dew_point", "humidity", "pressure", "visibility", "precipitation"],
        *["wind_speed", "wind_gust", "wind_north", "wind_east"],
        *["lowest_visibility_6h", "precipitation_6h", "highest_wind_6h"],
    ],
    prepare=[vd.Impute(categorical="unknown"), vd.Scale(), vd.Encode()],
    split=vd.TimeSplit(validation="7d", test="14d"),
    refit=True,
    learner=vd.Torch(
        network=build,
        loss="bce",
        optimizer=vd.AdamW(lr=3e-3),
        schedule=vd.Cosine(warmup=0.05),
        epochs=6,
        batch=1024,
    ),
    # Flights of one day share its weather, so days are drawn for the intervals, not flights.
    evaluation=vd.Evaluation("roc_auc", cohorts=["carrier", "origin"], by="days"),
    gates=[vd.AtLeast("roc_auc", 0.65), vd.NotWorse("champion", by=0.02)],
    operate=vd.Operate(
        approval=vd.PolicyApproval("passed-gates"),
        # Two months nearly double what a model of one winter knows: so old it may grow while its quality holds.
        retrain=vd.Retrain(fall=0.02, max_age="60d"),
    ),
    owner="flights-ml",
)
