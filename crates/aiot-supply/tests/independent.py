"""Checks what a release says about its images with libraries that are not this project's.

usage: independent.py PUBLIC_KEY FOLDER...
Each folder holds bom.cdx.json, provenance.intoto.json and signature.sigstore.json. Prints `FOLDER COMPONENTS SUBJECTS` a
line; a fault ends it with its name. Libraries: cyclonedx-python-lib (the standard's own), sigstore and its models.
"""

import hashlib
import json
import pathlib
import sys

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from sigstore.dsse import Envelope, _verify
from sigstore_models.common.v1 import PublicKeyIdentifier
from sigstore_models.intoto import Envelope as EnvelopeModel


def bill(path):
    text = path.read_text()
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, f"{path}: {problem}"
    # Read as objects, too: unique references, and dependencies that lead somewhere.
    bom = Bom.from_json(json.loads(text))
    bom.validate()
    return len(bom.components)


def signature(folder, key):
    bundle = json.loads((folder / "signature.sigstore.json").read_text())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json", bundle["mediaType"]
    PublicKeyIdentifier.model_validate(bundle["verificationMaterial"]["publicKey"])
    envelope = json.dumps(bundle["dsseEnvelope"])
    EnvelopeModel.from_json(envelope)
    payload = _verify(key, Envelope._from_json(envelope))
    assert bundle["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"
    subjects = [subject["digest"]["sha256"] for subject in json.loads(payload)["subject"]]
    for name in ("bom.cdx.json", "provenance.intoto.json"):
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert found in subjects, f"{name} is not signed"
    return len(subjects)


key = load_pem_public_key(pathlib.Path(sys.argv[1]).read_bytes())
for folder in map(pathlib.Path, sys.argv[2:]):
    print(folder, bill(folder / "bom.cdx.json"), signature(folder, key))
