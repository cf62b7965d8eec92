"""Checks of a simulated hub by the official client of devices: azure-iot-device 2.14.0, with azure-iot-hub 2.7.0 on the
other side.

Connection strings in AIOT_HUB_CONNECTION_STRING (service) and AIOT_DEVICE_CONNECTION_STRING, authority in
REQUESTS_CA_BUNDLE, port in AIOT_DEVICE_PORT: the client knows 8883 alone, which may be taken here, so the last call
before the socket gets another one. Each check says its source as in suite.py.
"""
import base64
import hashlib
import hmac
import os
import queue
import sys
import threading
import time
import urllib.parse

import paho.mqtt.client
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse
from azure.iot.device.exceptions import ClientError, CredentialError
from azure.iot.hub import IoTHubConfigurationManager, IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, ConfigurationContent, QuerySpecification, Twin
from msrest.exceptions import HttpOperationError

own_port = int(os.environ["AIOT_DEVICE_PORT"])
connect = paho.mqtt.client.Client.connect
paho.mqtt.client.Client.connect = lambda self, host, port, keepalive: connect(self, host, own_port, keepalive)

service = os.environ["AIOT_HUB_CONNECTION_STRING"]
device_string = os.environ["AIOT_DEVICE_CONNECTION_STRING"]
registry = IoTHubRegistryManager.from_connection_string(service)
configurations = IoTHubConfigurationManager.from_connection_string(service)
with open(os.environ["REQUESTS_CA_BUNDLE"]) as file:
    authority = file.read()
fields = dict(field.split("=", 1) for field in device_string.split(";"))
device_id = fields["DeviceId"]
done = []


def check(name, condition, seen=None):
    if not condition:
        sys.exit("%s: %r" % (name, seen))
    done.append(name)


def client_of(string, kind=IoTHubDeviceClient, **more):
    return kind.create_from_connection_string(string, server_verification_cert=authority, keep_alive=10,
                                              connection_retry=False, **more)


def refused(client):
    try:
        client.connect()
    except CredentialError:
        return True
    except ClientError:
        return False
    return False


# docs: a device's key is in its identity.
identity = registry.get_device(device_id)
check("key", identity.authentication.symmetric_key.primary_key == fields["SharedAccessKey"], identity)

# docs: a wrong key, an expired token, another device's token are refused: not authorized.
wrong = base64.b64encode(b"0" * 32).decode()
check("wrong key", refused(client_of("HostName=localhost;DeviceId=%s;SharedAccessKey=%s" % (device_id, wrong))))
check("no such device", refused(client_of("HostName=localhost;DeviceId=ghost;SharedAccessKey=%s" % wrong)))

# docs: the secondary key is as good as the first.
secondary = identity.authentication.symmetric_key.secondary_key
second = client_of("HostName=localhost;DeviceId=%s;SharedAccessKey=%s" % (device_id, secondary))
second.connect()
check("secondary key", second.connected)

# docs: the hub keeps one connection of a device; the later one stays.
gone = threading.Event()
second.on_connection_state_change = lambda: second.connected or gone.set()
client = client_of(device_string)
client.connect()
check("one connection", gone.wait(10) and client.connected)
second.shutdown()

# docs: a twin has desired and reported properties with versions.
twin = client.get_twin()
check("twin", twin["desired"]["$version"] == 1 and twin["reported"]["$version"] == 1, twin)

# docs: reported properties are patched, null removes; the service sees them.
client.patch_twin_reported_properties({"model": {"name": "digits", "version": "1"}, "uptime": 5})
client.patch_twin_reported_properties({"model": {"version": "2"}, "uptime": None})
seen = registry.get_twin(device_id).properties.reported
check("reported", seen["model"] == {"name": "digits", "version": "2"} and "uptime" not in seen
      and seen["$version"] == 3, seen)
rows = registry.query_iot_hub(QuerySpecification(
    query="SELECT * FROM devices WHERE properties.reported.model.version = '2'")).items
check("query", [row.device_id for row in rows] == [device_id], rows)
# docs: what a twin cannot hold is refused, and nothing of it kept.
try:
    client.patch_twin_reported_properties({"text": "x" * 5000})
    check("too long", False)
except ClientError:
    check("too long", "text" not in registry.get_twin(device_id).properties.reported)

# docs: a patch of the desired properties comes with its version.
patches = queue.Queue()
client.on_twin_desired_properties_patch_received = patches.put
registry.update_twin(device_id, Twin(properties={"desired": {"rate": 3, "old": 1}}), "*")
patch = patches.get(timeout=10)
check("desired", patch == {"rate": 3, "old": 1, "$version": 2}, patch)
registry.update_twin(device_id, Twin(properties={"desired": {"old": None}}), "*")
patch = patches.get(timeout=10)
check("desired removed", patch == {"old": None, "$version": 3}, patch)
twin = client.get_twin()["desired"]
check("twin after", twin == {"rate": 3, "$version": 3}, twin)

# docs: a direct method is answered by the device, with a status of its own.
def answer(request):
    if request.name != "sleep":
        client.send_method_response(MethodResponse.create_from_method_request(request, 207, {"said": request.payload}))


client.on_method_request_received = answer
told = registry.invoke_device_method(device_id, CloudToDeviceMethod(method_name="stats", payload={"a": "ä"},
                                                                    response_timeout_in_seconds=10))
check("method", (told.status, told.payload) == (207, {"said": {"a": "ä"}}), told)
try:
    registry.invoke_device_method(device_id, CloudToDeviceMethod(method_name="sleep", response_timeout_in_seconds=5))
    check("no answer", False)
except HttpOperationError as error:
    check("no answer", error.response.status_code == 504, error.response.headers)

# docs: messages to the cloud are acknowledged, up to 256 KiB.
message = Message("{}")
message.custom_properties["a b"] = "c&d"
client.send_message(message)
client.send_message(Message("x" * 250_000))
check("telemetry", client.connected)

# docs: what changes while a client is away is not sent to it; it asks for its twin when it is back, and hands over what
# it finds as a patch. What it has subscribed without a clean session stays subscribed.
client.disconnect()
registry.update_twin(device_id, Twin(properties={"desired": {"rate": 4}}), "*")
client.connect()
patch = patches.get(timeout=10)
check("twin after reconnecting", patch == {"rate": 4, "$version": 4}, patch)
registry.update_twin(device_id, Twin(properties={"desired": {"rate": 5}}), "*")
patch = patches.get(timeout=10)
check("desired after reconnecting", patch == {"rate": 5, "$version": 5}, patch)


# inferred: the hub disconnects a client whose token expires, as edge hubs do (facts, D7).
def token(resource, key, secs):
    expiry = int(time.time()) + secs
    resource = urllib.parse.quote(resource, safe="")
    signature = hmac.digest(base64.b64decode(key), ("%s\n%d" % (resource, expiry)).encode(), hashlib.sha256)
    return "SharedAccessSignature sr=%s&sig=%s&se=%d" % (
        resource, urllib.parse.quote(base64.b64encode(signature), safe=""), expiry)


def with_token(text):
    return IoTHubDeviceClient.create_from_sastoken(text, server_verification_cert=authority, connection_retry=False)


client.shutdown()
short = with_token(token("localhost/devices/" + device_id, fields["SharedAccessKey"], 4))
gone = threading.Event()
short.on_connection_state_change = lambda: short.connected or gone.set()
short.connect()
check("expiry", gone.wait(15))
short.shutdown()
check("token of another", refused(with_token(token("localhost/devices/other", fields["SharedAccessKey"], 600))))

# docs: a module's identity is there when a deployment has brought it to the device; it has a key and a twin of its own.
def desired(level):
    settings = {"image": "r/vision@sha256:1", "createOptions": "{}"}
    module = {"type": "docker", "status": "running", "restartPolicy": "always", "settings": settings}
    agent = {"schemaVersion": "1.1", "runtime": {"type": "docker", "settings": {}},
             "systemModules": {"edgeAgent": {"type": "docker", "settings": settings}, "edgeHub": module},
             "modules": {"vision": module}}
    hub = {"schemaVersion": "1.1", "routes": {}, "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}}
    return ConfigurationContent(modules_content={
        "$edgeAgent": {"properties.desired": agent}, "$edgeHub": {"properties.desired": hub},
        "vision": {"properties.desired": {"level": level, "kept": 1}}})


configurations.apply_configuration_on_edge_device(device_id, desired(1))
ends = time.monotonic() + 60
while "vision" not in {module.module_id for module in registry.get_modules(device_id)}:
    if time.monotonic() > ends:
        sys.exit("the agent does not start the module")
    time.sleep(0.2)
module_identity = registry.get_module(device_id, "vision")
module = client_of("HostName=localhost;DeviceId=%s;ModuleId=vision;SharedAccessKey=%s"
                   % (device_id, module_identity.authentication.symmetric_key.primary_key), IoTHubModuleClient)
module.connect()
twin = module.get_twin()["desired"]
check("module twin", (twin["level"], twin["kept"]) == (1, 1), twin)
module_patches = queue.Queue()
module.on_twin_desired_properties_patch_received = module_patches.put
# docs: a deployment changes what is desired of a module, and the module is told what changed.
configurations.apply_configuration_on_edge_device(device_id, desired(2))
patch = module_patches.get(timeout=10)
check("module desired", patch["level"] == 2 and "kept" not in patch and patch["$version"] > twin["$version"], patch)
module.patch_twin_reported_properties({"selfCheck": {"passed": False}})
seen = registry.get_module_twin(device_id, "vision").properties.reported
check("module reported", seen["selfCheck"] == {"passed": False}, seen)
module.on_method_request_received = lambda request: module.send_method_response(
    MethodResponse.create_from_method_request(request, 200, None))
told = registry.invoke_device_module_method(device_id, "vision", CloudToDeviceMethod(
    method_name="ping", response_timeout_in_seconds=10))
check("module method", (told.status, told.payload) == (200, None), told)
module.send_message(Message("{}"))
module.shutdown()
# inferred: the runtime's own modules are simulated; nobody takes their place.
agent_key = base64.b64encode(b"0" * 32).decode()
check("agent", refused(client_of("HostName=localhost;DeviceId=%s;ModuleId=$edgeAgent;SharedAccessKey=%s"
                                 % (device_id, agent_key), IoTHubModuleClient)))

print("%d checks" % len(done))
