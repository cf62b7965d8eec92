"""The module as a FastAPI service: `POST /v1/predict` with a picture as the body."""

import fastapi
from classifier import Classifier

service = fastapi.FastAPI()
classifier = Classifier()


@service.post("/v1/predict")
async def predict(request: fastapi.Request):
    return classifier.predict(await request.body())
