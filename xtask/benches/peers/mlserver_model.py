"""The module as a model of MLServer: Open Inference Protocol with tensors."""

from classifier import Classifier
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Model(MLModel):
    async def load(self) -> bool:
        self.classifier = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        logits = self.classifier.run(tensor)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(name="logits", payload=logits)]
        )
