#!/usr/bin/env python3
"""Tests the fake NVML: builds both variants in a temporary directory and calls them. Needs a C compiler only."""

import ctypes
import os
import signal
import subprocess
import tempfile
import time
import unittest
from ctypes import byref, c_int, c_longlong, c_uint, c_ulonglong, c_void_p
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = [str(path) for path in sorted(HERE.glob("*.c"))]
FLAGS = "-shared -fPIC -O1 -Wall -Wextra -Werror -pthread -Wl,-z,nodelete".split()
NOT_SUPPORTED, NOT_FOUND, TOO_SMALL, TIMEOUT, LOST, MISMATCH = 3, 6, 7, 10, 15, 18


class MemoryV1(ctypes.Structure):
    _fields_ = [(name, c_ulonglong) for name in ("total", "free", "used")]


class MemoryV2(ctypes.Structure):
    _fields_ = [("version", c_uint)] + [(name, c_ulonglong) for name in ("total", "reserved", "free", "used")]


class ProcessV1(ctypes.Structure):
    _fields_ = [("pid", c_uint), ("bytes", c_ulonglong)]


class ProcessV2(ctypes.Structure):
    _fields_ = ProcessV1._fields_ + [("gpu_instance", c_uint), ("compute_instance", c_uint)]


class Field(ctypes.Structure):
    _fields_ = [("id", c_uint), ("scope", c_uint), ("timestamp", c_longlong), ("latency", c_longlong),
                ("type", c_uint), ("result", c_uint), ("value", c_ulonglong)]


class Event(ctypes.Structure):
    _fields_ = [("device", c_void_p), ("type", c_ulonglong), ("data", c_ulonglong),
                ("gpu_instance", c_uint), ("compute_instance", c_uint)]


def setUpModule():
    global scratch, folder, new, old
    scratch = tempfile.TemporaryDirectory(prefix="fake-nvml-")
    folder = Path(scratch.name)
    libraries = []
    for name, extra in (("new", []), ("old", ["-DOLD_DRIVER"])):
        library = folder / name / "libnvidia-ml.so.1"
        library.parent.mkdir()
        subprocess.run([os.environ.get("CC", "cc"), *FLAGS, *extra, "-o", library, *SOURCES], check=True)
        libraries.append(library)
    os.environ["HM_FAKE_NVML"] = str(folder / "script")
    write()
    new, old = map(ctypes.CDLL, libraries)


def tearDownModule():
    scratch.cleanup()


def write(*lines):
    """Replaces the script atomically."""
    draft = folder / "draft"
    draft.write_text("\n".join(lines) + "\n")
    draft.rename(folder / "script")


def number(library, function, device, *arguments, kind=c_uint):
    """The number returned by a call, or ("error", code)."""
    value = kind()
    result = library[function](device, *arguments, byref(value))
    return ("error", result) if result else value.value


def handle(library, index=0):
    device = c_void_p()
    result = library.nvmlDeviceGetHandleByIndex_v2(index, byref(device))
    return ("error", result) if result else device


def text(library, function, *arguments):
    buffer = ctypes.create_string_buffer(96)
    assert library[function](*arguments, buffer, 96) == 0
    return buffer.value.decode()


def in_child(action):
    """Runs `action` in a child process, so that a crash does not end the tests."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.01)


def is_called(log, entry):
    """Whether the call was logged, which comes before the rules such as `hang`."""
    return log.exists() and entry in log.read_text().splitlines()


def holds_sigterm(process, signals):
    """Whether SIGTERM is in a set of `/proc/PID/status`: SigBlk, the blocked signals, or ShdPnd, the pending ones."""
    status = Path(f"/proc/{process}/status").read_text()
    held = next(line.split()[1] for line in status.splitlines() if line.startswith(f"{signals}:"))
    return bool(int(held, 16) >> (signal.SIGTERM - 1) & 1)


class FakeNvml(unittest.TestCase):
    def setUp(self):
        write("gpus = 2")
        for library in (new, old):
            self.assertEqual(library.nvmlInit_v2(), 0)
            self.addCleanup(library.nvmlShutdown)

    def test_default_values_differ_by_gpu(self):
        self.assertEqual(number(new, "nvmlDeviceGetTemperature", handle(new, 0), 0), 40)
        self.assertEqual(number(new, "nvmlDeviceGetTemperature", handle(new, 1), 0), 43)
        self.assertEqual(text(new, "nvmlSystemGetDriverVersion"), "550.54.14")
        self.assertEqual(text(old, "nvmlSystemGetDriverVersion"), "390.157")
        uuids = {text(new, "nvmlDeviceGetUUID", handle(new, index)) for index in (0, 1)}
        self.assertEqual(len(uuids), 2)
        for uuid in uuids:
            device = c_void_p()
            self.assertEqual(new.nvmlDeviceGetHandleByUUID(uuid.encode(), byref(device)), 0)
        self.assertEqual(new.nvmlDeviceGetHandleByUUID(b"GPU-0", byref(device)), NOT_FOUND)
        self.assertEqual(new.nvmlDeviceGetHandleByPciBusId_v2(b"0000:11:00.0", byref(device)), 0)
        self.assertEqual(device.value, handle(new, 1).value)
        self.assertEqual(number(new, "nvmlDeviceGetNumFans", handle(new)), ("error", NOT_SUPPORTED))

    def test_returns_values_of_the_script(self):
        write("gpu.0.temp = 91 # comment", "gpu.0.energy_mj = 0x100000000", "gpu.0.name = A card", "gpu.0.temp_mem = none",
              "gpu.0.fan = 33", "gpu.0.remapped_pending = 1")
        device = handle(new)
        self.assertEqual(number(new, "nvmlDeviceGetTemperature", device, 0), 91)
        self.assertEqual(number(new, "nvmlDeviceGetTotalEnergyConsumption", device, kind=c_ulonglong), 1 << 32)
        self.assertEqual(text(new, "nvmlDeviceGetName", device), "A card")
        self.assertEqual(number(new, "nvmlDeviceGetFanSpeed_v2", device, 0), 33)
        fields = (Field * 4)(Field(82), Field(144), Field(83), Field(300))
        self.assertEqual(new.nvmlDeviceGetFieldValues(device, 4, fields), 0)
        self.assertEqual([field.result for field in fields], [NOT_SUPPORTED, 0, 0, 2])
        self.assertEqual((fields[1].value, fields[2].value), (1, 1 << 32))

    def test_throttle_field_ids_depend_on_driver_version(self):
        for driver, field in (("580.65.06", 252), ("580.82.07", 270)):
            write(f"driver = {driver}", "gpu.0.throttle_hw_thermal_ns = 5")
            fields = (Field * 2)(Field(field), Field(252 + 270 - field))
            self.assertEqual(new.nvmlDeviceGetFieldValues(handle(new), 2, fields), 0)
            other = (NOT_SUPPORTED, 0) if field == 252 else (0, 7)
            self.assertEqual([(each.result, each.value) for each in fields], [(0, 5), other])

    def test_both_versions_of_memory_info(self):
        write("gpu.0.memory_total = 1000", "gpu.0.memory_used = 300", "gpu.0.memory_reserved = 50")
        first, second = MemoryV1(), MemoryV2(version=ctypes.sizeof(MemoryV2) | 2 << 24)
        self.assertEqual(new.nvmlDeviceGetMemoryInfo(handle(new), byref(first)), 0)
        self.assertEqual(new.nvmlDeviceGetMemoryInfo_v2(handle(new), byref(second)), 0)
        self.assertEqual((first.used, first.free), (350, 650))
        self.assertEqual((second.used, second.free, second.reserved), (300, 650, 50))
        self.assertEqual(new.nvmlDeviceGetMemoryInfo_v2(handle(new), byref(MemoryV2())), 25)

    def test_both_versions_of_process_lists(self):
        write("gpu.0.processes = 11:100, 12:none")
        count, first, second = c_uint(0), (ProcessV1 * 2)(), (ProcessV2 * 2)()
        self.assertEqual(new.nvmlDeviceGetComputeRunningProcesses_v3(handle(new), byref(count), None), TOO_SMALL)
        self.assertEqual(count.value, 2)
        self.assertEqual(new.nvmlDeviceGetComputeRunningProcesses(handle(new), byref(count), first), 0)
        self.assertEqual([(each.pid, each.bytes) for each in first], [(11, 100), (12, 2**64 - 1)])
        self.assertEqual(new.nvmlDeviceGetComputeRunningProcesses_v2(handle(new), byref(count), second), 0)
        self.assertEqual((second[1].pid, second[1].gpu_instance), (12, 2**32 - 1))

    def test_mig_instances(self):
        write("gpu.0.mig = 1", "gpu.0.mig_instances = 2", "gpu.0.processes = 1:1,2:2,3:3")
        instance = c_void_p(number(new, "nvmlDeviceGetMigDeviceHandleByIndex", handle(new), 1, kind=c_void_p))
        self.assertEqual(number(new, "nvmlDeviceGetGpuInstanceId", instance), 8)
        self.assertEqual(number(new, "nvmlDeviceGetPowerUsage", instance), ("error", NOT_SUPPORTED))
        self.assertEqual(number(new, "nvmlDeviceGetMigDeviceHandleByIndex", handle(new), 2, kind=c_void_p),
                         ("error", NOT_FOUND))
        count, processes = c_uint(9), (ProcessV2 * 9)()
        self.assertEqual(new.nvmlDeviceGetComputeRunningProcesses_v3(instance, byref(count), processes), 0)
        self.assertEqual((count.value, processes[0].pid, processes[0].gpu_instance), (1, 2, 8))

    def test_links(self):
        write("gpu.0.nvlinks = 2", "gpu.0.nvlink_errors = 7", "gpu.1.nvlinks = none", "gpus = 2")
        states = [number(new, "nvmlDeviceGetNvLinkState", handle(new), link) for link in (0, 1, 2, 18)]
        self.assertEqual(states, [1, 1, 0, ("error", 2)])
        self.assertEqual(number(new, "nvmlDeviceGetNvLinkState", handle(new, 1), 0), ("error", NOT_SUPPORTED))
        fields = (Field * 3)(Field(38), Field(165, scope=1), Field(165, scope=2))
        self.assertEqual(new.nvmlDeviceGetFieldValues(handle(new), 3, fields), 0)
        self.assertEqual([field.value for field in fields], [14, 1, 0])

    def test_version_mismatch_ends_when_the_script_changes(self):
        new.nvmlShutdown()
        write(f"init = {MISMATCH}")
        self.assertEqual(new.nvmlInit_v2(), MISMATCH)
        self.assertEqual(new.nvmlDeviceGetCount_v2(byref(c_uint())), 1)
        write()
        self.assertEqual(new.nvmlInit_v2(), 0)

    def test_errors_of_one_gpu(self):
        write("gpus = 2", "error.1 = nvmlDeviceGetPowerUsage:4", "unsupported = nvmlDeviceGetEccMode")
        self.assertEqual(number(new, "nvmlDeviceGetPowerUsage", handle(new, 0)), 150000)
        self.assertEqual(number(new, "nvmlDeviceGetPowerUsage", handle(new, 1)), ("error", 4))
        self.assertEqual(number(new, "nvmlDeviceGetEccMode", handle(new, 1), byref(c_uint())), ("error", 3))

    def test_lost_and_removed_gpus(self):
        first, second = handle(new, 0), handle(new, 1)
        write("gpus = 2", "lost = 0")
        self.assertEqual(number(new, "nvmlDeviceGetPowerUsage", first), ("error", LOST))
        self.assertEqual(number(new, "nvmlDeviceGetMinorNumber", second), 1)
        self.assertEqual(handle(new, 0), ("error", LOST))
        write("gpus = 2", "gone = 0")
        count = c_uint()
        self.assertEqual(new.nvmlDeviceGetCount_v2(byref(count)), 0)
        self.assertEqual(count.value, 1)
        self.assertEqual(handle(new, 0).value, second.value)
        self.assertEqual(number(new, "nvmlDeviceGetIndex", second), 0)
        self.assertEqual(number(new, "nvmlDeviceGetPowerUsage", first), ("error", LOST))

    def test_delivers_each_xid_once(self):
        for library, wait in ((new, "nvmlEventSetWait_v2"), (old, "nvmlEventSetWait")):
            write("gpus = 2")
            events, event = c_void_p(), Event()
            self.assertEqual(library.nvmlEventSetCreate(byref(events)), 0)
            self.assertEqual(library.nvmlDeviceRegisterEvents(handle(library, 1), c_ulonglong(8), events), 0)
            begin = time.monotonic()
            self.assertEqual(library[wait](events, byref(event), 60), TIMEOUT)
            self.assertGreaterEqual(time.monotonic() - begin, 0.06)
            write("gpus = 2", "xid = 1:1:79, 2:0:13, 3:1:48")  # GPU 0 is not registered
            codes = []
            while library[wait](events, byref(event), 60) == 0:
                codes.append((event.device == handle(library, 1).value, event.type, event.data))
            self.assertEqual(codes, [(True, 8, 79), (True, 8, 48)])
            self.assertEqual(library.nvmlEventSetFree(events), 0)
            self.assertEqual(library.nvmlEventSetFree(events), 2)

    def test_only_sigkill_ends_a_hang(self):
        write("hang.0 = nvmlDeviceGetPowerUsage", f"log = {folder}/log", "gpus = 2")
        child = in_child(lambda: number(new, "nvmlDeviceGetPowerUsage", handle(new, 0)))
        log = folder / "log"
        # Blocked signals alone are no sign: a new process blocks all of them at first, with glibc 2.41.
        until(lambda: is_called(log, "nvmlDeviceGetPowerUsage 0") and holds_sigterm(child, "SigBlk"))
        os.kill(child, signal.SIGTERM)
        until(lambda: holds_sigterm(child, "ShdPnd"))
        self.assertEqual(os.waitpid(child, os.WNOHANG), (0, 0))
        os.kill(child, signal.SIGKILL)
        self.assertEqual(os.waitpid(child, 0)[1], signal.SIGKILL)
        self.assertNotEqual(number(new, "nvmlDeviceGetPowerUsage", handle(new, 1)), ("error", LOST))
        self.assertEqual(log.read_text().splitlines(),
                         ["nvmlDeviceGetHandleByIndex_v2 0", "nvmlDeviceGetPowerUsage 0",
                          "nvmlDeviceGetHandleByIndex_v2 1", "nvmlDeviceGetPowerUsage 1"])

    def test_hanging_thread_does_not_block_others(self):
        def run():
            import threading
            write("hang.0 = nvmlDeviceGetPowerUsage", f"log = {folder}/threads", "gpus = 2")
            device = handle(new, 0)
            threading.Thread(target=number, args=(new, "nvmlDeviceGetPowerUsage", device), daemon=True).start()
            until(lambda: is_called(folder / "threads", "nvmlDeviceGetPowerUsage 0"))
            os._exit(0 if number(new, "nvmlDeviceGetPowerUsage", handle(new, 1)) == 161000 else 1)

        self.assertEqual(os.waitpid(in_child(run), 0)[1], 0)

    def test_crash(self):
        write("crash = nvmlDeviceGetPowerUsage")
        child = in_child(lambda: number(new, "nvmlDeviceGetPowerUsage", handle(new, 0)))
        self.assertEqual(os.WTERMSIG(os.waitpid(child, 0)[1]), signal.SIGSEGV)

    def test_aborts_on_errors_in_the_script(self):
        for line in ("nonsense", "gpu.0.tmp = 1", "gpu.0.temp = warm", "hang = nvmlDeviceGetPowr", "gpu.64.temp = 1",
                     "error = nvmlDeviceGetName", "hang.x = nvmlDeviceGetName", "lost = GPU0", "temp = 3",
                     "gpu.0 = 1", "driver.0 = 1", "gpu.0.temp.1 = 1"):
            def run():
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                new.nvmlDeviceGetCount_v2(byref(c_uint()))

            write(line)
            with self.subTest(line):
                self.assertEqual(os.WTERMSIG(os.waitpid(in_child(run), 0)[1]), signal.SIGABRT)
        write()

    def test_old_variant_lacks_newer_functions(self):
        for name in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetMigMode",
                     "nvmlEventSetWait_v2", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetAttributes_v2"):
            self.assertTrue(hasattr(new, name), name)
            self.assertFalse(hasattr(old, name), name)
        self.assertEqual(number(old, "nvmlDeviceGetCurrentClocksThrottleReasons", handle(old), kind=c_ulonglong), 0)


if __name__ == "__main__":
    unittest.main()
