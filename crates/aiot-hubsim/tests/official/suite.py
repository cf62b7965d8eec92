"""Checks of a simulated hub by the official client: azure-iot-hub 2.7.0.

Connection string in AIOT_HUB_CONNECTION_STRING, authority in REQUESTS_CA_BUNDLE. Each check says its source: "docs" is
the public documentation of IoT Hub, "swagger" the service's REST description, "inferred" what issues of the clients
tell. Where sources are silent the simulator does what is harder for a caller.
"""
import os
import sys

from azure.iot.hub import IoTHubConfigurationManager, IoTHubRegistryManager
from azure.iot.hub.models import (CloudToDeviceMethod, Configuration, ConfigurationContent, ConfigurationMetrics,
                                  QuerySpecification, Twin)
from azure.iot.hub.protocol.models import ConfigurationQueriesTestInput
from msrest.exceptions import HttpOperationError

connection = os.environ["AIOT_HUB_CONNECTION_STRING"]
configurations = IoTHubConfigurationManager.from_connection_string(connection)
registry = IoTHubRegistryManager.from_connection_string(connection)
done = []


def check(name, condition, seen=None):
    if not condition:
        sys.exit("%s: %r" % (name, seen))
    done.append(name)


def refused(call, status, code):
    try:
        result = call()
    except HttpOperationError as error:
        return error.response.status_code == status and error.response.headers["iothub-errorcode"] == code
    return not result and None


def desired(image):
    settings = {"image": image, "createOptions": "{}"}
    module = {"type": "docker", "status": "running", "restartPolicy": "always", "settings": settings}
    agent = {"schemaVersion": "1.1", "runtime": {"type": "docker", "settings": {}},
             "systemModules": {"edgeAgent": {"type": "docker", "settings": settings}, "edgeHub": module},
             "modules": {"vision": module}}
    hub = {"schemaVersion": "1.1", "routes": {}, "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}}
    return {"$edgeAgent": {"properties.desired": agent}, "$edgeHub": {"properties.desired": hub}}


def configuration(name, condition="tags.ring = 'canary'"):
    return Configuration(
        id=name, schema_version="2.0", priority=10, target_condition=condition, labels={"a": "b"},
        content=ConfigurationContent(modules_content=desired("r/vision@sha256:1")),
        metrics=ConfigurationMetrics(queries={"edge": "SELECT deviceId FROM devices WHERE capabilities.iotEdge = true"}))


# swagger: PUT creates; the answer is the configuration with its ETag.
created = configurations.create_configuration(configuration("prod-a"))
check("create", created.id == "prod-a" and created.etag and created.schema_version == "2.0", created)

# docs: content, labels, metrics and the system's metrics come back; the custom metric counts.
read = configurations.get_configuration("prod-a")
check("read", read.content.modules_content == desired("r/vision@sha256:1") and read.labels == {"a": "b"}, read)
check("metrics", read.system_metrics.results["targetedCount"] == 3 and read.metrics.results["edge"] == 25,
      (read.system_metrics.results, read.metrics.results))

# recorded: the second creation of an id is 409.
check("exists", refused(lambda: configurations.create_configuration(configuration("prod-a")), 409,
                        "ConfigurationAlreadyExists"))

# inferred (issue 983 of this SDK): its update sends the bare ETag, which the service takes for none: 409.
read.priority = 20
check("bare etag", refused(lambda: configurations.update_configuration(read, read.etag), 409, "ConfigurationAlreadyExists"))

# recorded: quoted, the update goes through once, and then the ETag is stale.
quoted = '"%s"' % read.etag
protocol = configurations.protocol.configuration
updated = protocol.create_or_update("prod-a", read, quoted)
check("update", updated.priority == 20 and updated.etag != created.etag, updated)
check("stale", refused(lambda: protocol.create_or_update("prod-a", read, quoted), 412, "PreconditionFailed"))

# docs: content cannot be changed.
changed = configuration("prod-a")
changed.content.modules_content = desired("r/vision@sha256:2")
check("immutable", refused(lambda: protocol.create_or_update("prod-a", changed, "*"), 400,
                           "CannotModifyImmutableConfigurationContent"))

# swagger: testQueries finds a condition with double quotes, which the docs forbid.
tried = configurations.test_configuration_queries(
    ConfigurationQueriesTestInput(target_condition='tags.a = "b"', custom_metric_queries={"m": "SELECT FROM"}))
check("test queries", tried.target_condition_error and "m" in tried.custom_metric_query_errors, tried)

# docs: twins are merged by PATCH; null removes.
registry.update_twin("edge-03", Twin(tags={"ring": "canary", "number": None}), "*")
twin = registry.get_twin("edge-03")
check("twin", twin.tags == {"ring": "canary"} and twin.device_id == "edge-03", twin)

# recorded: reserved modules cannot be written.
check("reserved", refused(lambda: registry.update_module_twin("edge-03", "$edgeAgent", Twin(properties=None), "*"), 401,
                          "SystemModuleModifyUnauthorizedAccess"))

# docs: a query is read page by page with a continuation.
rows, token, pages = [], None, 0
while True:
    answer = registry.query_iot_hub(QuerySpecification(query="SELECT * FROM devices WHERE tags.number < 20"), token, 6)
    rows += answer.items
    token, pages = answer.continuation_token, pages + 1
    if not token:
        break
check("pages", (len(rows), pages) == (19, 4), (len(rows), pages))

# docs: every edge device has the modules of the runtime, and queries see their twins.
modules = {module.module_id for module in registry.get_modules("edge-00")}
agents = registry.query_iot_hub(QuerySpecification(
    query="SELECT * FROM devices.modules WHERE moduleId = '$edgeAgent' "
          "AND configurations.[[prod-a]].status = 'Applied'"))
names = sorted(agent.device_id for agent in agents.items)
check("modules", {"$edgeAgent", "$edgeHub"} <= modules and names == ["edge-00", "edge-01", "edge-02", "edge-03"],
      (modules, names))

# swagger: a method's answer is status and payload of the device; docs: the agent answers ping with 200 and null.
def method(name, payload=None, module="$edgeAgent", device="edge-00", wait=5):
    call = CloudToDeviceMethod(method_name=name, payload=payload, response_timeout_in_seconds=wait)
    return registry.invoke_device_module_method(device, module, call)


pong = method("ping")
check("ping", (pong.status, pong.payload) == (200, None), pong)
check("restart", method("RestartModule", {"schemaVersion": "1.0", "id": "none"}).status == 400)
check("no module", refused(lambda: method("ping", module="ghost"), 404, "DeviceNotOnline"))
check("no device", refused(lambda: method("ping", device="ghost"), 404, "DeviceNotFound"))
# swagger: responseTimeoutInSeconds is 5 to 300.
check("timeout", refused(lambda: method("ping", wait=301), 400, "ArgumentInvalid"))

# docs: applyConfigurationContent is 204 and needs no deployment; the agent's twin then has the content.
configurations.apply_configuration_on_edge_device("edge-20", ConfigurationContent(modules_content=desired("r/vision@sha256:9")))
agent = registry.get_module_twin("edge-20", "$edgeAgent")
check("content", agent.properties.desired["modules"]["vision"]["settings"]["image"] == "r/vision@sha256:9", agent)
# recorded (issue 2419 of the C# SDK): content without an agent is 400.
nothing = ConfigurationContent(modules_content={"vision": {"properties.desired": {}}})
check("no agent", refused(lambda: configurations.apply_configuration_on_edge_device("edge-20", nothing), 400,
                          "InvalidConfigurationContent"))

# swagger: DELETE is 204, and what is gone is 404.
configurations.delete_configuration("prod-a")
check("delete", refused(lambda: configurations.get_configuration("prod-a"), 404, "ConfigurationNotFound"))

print("%d checks" % len(done))
