// SPDX-License-Identifier: BSD-3-Clause
// Streams and events. Work runs when it is submitted, so a stream is always empty and an event is
// over once recorded.
#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "runtime/graph.h"
#include "runtime/work.h"

namespace emu {
namespace {

struct Streams {
    std::set<Stream*> live;
    std::set<Event*> events;
    std::vector<Capture*> captures;  // in progress
    Stream legacy;
    unsigned long long next_id = 3, next_capture = 1;
};

Streams& streams() {
    static Streams& s = *new Streams;
    return s;
}

thread_local cudaStreamCaptureMode t_mode = cudaStreamCaptureModeGlobal;
thread_local Stream t_stream;  // cudaStreamPerThread

void invalidate(Capture& capture) {
    capture.invalid = true;
}

cudaError_t create(cudaStream_t* out, unsigned flags, int priority) {
    if (!out || (flags != cudaStreamDefault && flags != cudaStreamNonBlocking)) {
        return cudaErrorInvalidValue;
    }
    auto* stream = new Stream;
    stream->flags = flags;
    stream->priority = std::clamp(priority, -5, 0);
    stream->id = streams().next_id++;
    streams().live.insert(stream);
    *out = reinterpret_cast<cudaStream_t>(stream);
    return cudaSuccess;
}

void leave_capture(Stream& stream) {
    stream.capture.reset();
    stream.tail.clear();
}

void end_capture(const std::shared_ptr<Capture>& capture) {
    for (Stream* stream : capture->streams) {
        leave_capture(*stream);
    }
    std::erase(streams().captures, capture.get());
}

void wait_event(cudaStream_t handle, Event& event, unsigned flags) {
    Stream& stream = find_stream(handle);
    const std::shared_ptr<Capture> source = event.capture.lock();
    if (flags & cudaEventWaitExternal) {
        submit(handle, EventWork{&event, false});
        return;
    }
    if (!source) {
        if (stream.capture) {
            invalidate(*stream.capture);
            throw Fault(cudaErrorStreamCaptureIsolation,
                        "a capturing stream waits for an event that was not captured");
        }
        return;
    }
    if (!stream.capture) {  // the stream joins the event's capture
        stream.capture = source;
        source->streams.push_back(&stream);
    } else if (stream.capture != source) {
        invalidate(*stream.capture);
        invalidate(*source);
        throw Fault(cudaErrorStreamCaptureMerge,
                    "a capturing stream waits for an event of another capture");
    }
    for (GraphNode* node : event.nodes) {
        if (std::find(stream.tail.begin(), stream.tail.end(), node) == stream.tail.end()) {
            stream.tail.push_back(node);
        }
    }
}

void record_event(Event& event, cudaStream_t handle, unsigned flags) {
    Stream& stream = find_stream(handle);
    if (stream.capture && !(flags & cudaEventRecordExternal)) {
        event.capture = stream.capture;
        event.nodes = stream.tail;
        return;
    }
    submit(handle, EventWork{&event, true});
}

cudaError_t begin_capture(cudaStream_t handle, Graph* graph, const std::vector<GraphNode*>& tail,
                          cudaStreamCaptureMode mode) {
    Stream& stream = find_stream(handle);
    if (&stream == &streams().legacy) {
        throw Fault(cudaErrorStreamCaptureUnsupported,
                    "the legacy default stream cannot be captured");
    }
    if (stream.capture || mode < cudaStreamCaptureModeGlobal ||
        mode > cudaStreamCaptureModeRelaxed) {
        return cudaErrorIllegalState;
    }
    auto capture = std::make_shared<Capture>();
    capture->own_graph = graph == nullptr;
    capture->graph = graph ? graph : new_graph();
    capture->mode = mode;
    capture->id = streams().next_capture++;
    capture->origin = &stream;
    capture->streams = {&stream};
    capture->thread = std::this_thread::get_id();
    stream.capture = capture;
    stream.tail = tail;
    streams().captures.push_back(capture.get());
    return cudaSuccess;
}

void fill_capture_info(const Stream& stream, cudaStreamCaptureStatus* status) {
    *status = !stream.capture           ? cudaStreamCaptureStatusNone
              : stream.capture->invalid ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
}

}  // namespace

double host_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

Stream& find_stream(cudaStream_t handle) {
    if (handle == nullptr || handle == cudaStreamLegacy) {
        return streams().legacy;
    }
    if (handle == cudaStreamPerThread) {
        t_stream.id = 2;
        return t_stream;
    }
    auto* stream = reinterpret_cast<Stream*>(handle);
    if (!streams().live.contains(stream)) {
        throw Fault(cudaErrorInvalidResourceHandle, "this is no stream");
    }
    return *stream;
}

Event& find_event(cudaEvent_t handle) {
    auto* event = reinterpret_cast<Event*>(handle);
    if (!streams().events.contains(event)) {
        throw Fault(cudaErrorInvalidResourceHandle, "this is no event");
    }
    return *event;
}

void forbid_during_capture(const char* call) {
    if (t_mode == cudaStreamCaptureModeRelaxed) {
        return;
    }
    for (Capture* capture : streams().captures) {
        const bool mine = capture->thread == std::this_thread::get_id();
        if (capture->mode == cudaStreamCaptureModeRelaxed ||
            (!mine && (capture->mode != cudaStreamCaptureModeGlobal ||
                       t_mode != cudaStreamCaptureModeGlobal))) {
            continue;
        }
        invalidate(*capture);
        throw Fault(cudaErrorStreamCaptureUnsupported,
                    std::string(call) + " during stream capture");
    }
}

void submit(cudaStream_t handle, Work work) {
    Stream& stream = find_stream(handle);
    if (stream.capture) {
        if (stream.capture->invalid) {
            throw Fault(cudaErrorStreamCaptureInvalidated,
                        "the capture was invalidated by an earlier error");
        }
        capture_work(stream, std::move(work));
        return;
    }
    if (&stream == &streams().legacy) {
        for (Capture* capture : streams().captures) {
            for (const Stream* s : capture->streams) {
                if (!(s->flags & cudaStreamNonBlocking)) {
                    invalidate(*capture);
                    throw Fault(
                        cudaErrorStreamCaptureImplicit,
                        "work in the legacy default stream while a blocking stream is captured");
                }
            }
        }
    }
    perform(work);
}

}  // namespace emu

using namespace emu;

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    return api([&] { return create(stream, cudaStreamDefault, 0); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return api([&] { return create(stream, flags, 0); });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
    return api([&] { return create(stream, flags, priority); });
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    return api([&] {
        Stream& stream = find_stream(handle);
        if (!streams().live.contains(&stream)) {
            return cudaErrorInvalidResourceHandle;
        }
        if (const std::shared_ptr<Capture> capture = stream.capture) {
            std::erase(capture->streams, &stream);
            if (capture->origin == &stream) {
                end_capture(capture);
            } else {
                capture->left.insert(capture->left.end(), stream.tail.begin(), stream.tail.end());
            }
        }
        streams().live.erase(&stream);
        delete &stream;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    return api([&] {
        const Stream& stream = find_stream(handle);
        if (stream.capture) {
            invalidate(*stream.capture);
            throw Fault(cudaErrorStreamCaptureUnsupported,
                        "cudaStreamSynchronize of a capturing stream");
        }
        return cudaSuccess;
    });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    return api([&] {
        const Stream& stream = find_stream(handle);
        if (stream.capture) {
            invalidate(*stream.capture);
            throw Fault(cudaErrorStreamCaptureUnsupported, "cudaStreamQuery of a capturing stream");
        }
        return cudaSuccess;
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    return api([&] {
        wait_event(stream, find_event(event), flags);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
    return api([&] {
        *priority = find_stream(stream).priority;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return api([&] {
        if (least) {
            *least = 0;
        }
        if (greatest) {
            *greatest = -5;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
    return api([&] {
        *flags = find_stream(stream).flags;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* id) {
    return api([&] {
        *id = find_stream(stream).id;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
    return api([&] {
        find_stream(stream);
        *device = 0;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamGetAttribute(cudaStream_t stream, cudaLaunchAttributeID attribute,
                                   cudaLaunchAttributeValue* value) {
    return api([&] {
        *value = find_stream(stream).attributes[attribute];
        return cudaSuccess;
    });
}

cudaError_t cudaStreamSetAttribute(cudaStream_t stream, cudaLaunchAttributeID attribute,
                                   const cudaLaunchAttributeValue* value) {
    return api([&] {
        find_stream(stream).attributes[attribute] = *value;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamCopyAttributes(cudaStream_t to, cudaStream_t from) {
    return api([&] {
        find_stream(to).attributes = find_stream(from).attributes;
        return cudaSuccess;
    });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    return api([&] {
        submit(stream, HostWork{function, data});
        return cudaSuccess;
    });
}

cudaError_t cudaStreamAddCallback(cudaStream_t handle, cudaStreamCallback_t callback, void* data,
                                  unsigned) {
    return api([&] {
        if (find_stream(handle).capture) {
            throw Fault(cudaErrorStreamCaptureUnsupported,
                        "cudaStreamAddCallback during stream capture");
        }
        callback(handle, cudaSuccess, data);
        return cudaSuccess;
    });
}

// ---- capture ----

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    return api([&] { return begin_capture(stream, nullptr, {}, mode); });
}

cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
                                          const cudaGraphNode_t* dependencies,
                                          const cudaGraphEdgeData*, size_t count,
                                          cudaStreamCaptureMode mode) {
    return api([&] {
        std::vector<GraphNode*> tail;
        for (size_t i = 0; i < count; ++i) {
            tail.push_back(&find_node(dependencies[i]));
        }
        return begin_capture(stream, &find_graph(graph), tail, mode);
    });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* out) {
    return api([&] {
        *out = nullptr;
        Stream& stream = find_stream(handle);
        const std::shared_ptr<Capture> capture = stream.capture;
        if (!capture) {
            return cudaErrorIllegalState;
        }
        if (capture->origin != &stream) {
            invalidate(*capture);
            throw Fault(cudaErrorStreamCaptureUnmatched,
                        "cudaStreamEndCapture on a stream that only joined the capture");
        }
        if (capture->mode != cudaStreamCaptureModeRelaxed &&
            capture->thread != std::this_thread::get_id()) {
            throw Fault(cudaErrorStreamCaptureWrongThread,
                        "the capture was begun by another thread");
        }
        std::vector<GraphNode*> ends = capture->left;
        for (const Stream* joined : capture->streams) {
            ends.insert(ends.end(), joined->tail.begin(), joined->tail.end());
        }
        const bool unjoined = std::any_of(ends.begin(), ends.end(), [&](const GraphNode* node) {
            return !reaches(*node, stream.tail);
        });
        end_capture(capture);
        if (capture->invalid || unjoined) {
            if (capture->own_graph) {
                delete_graph(capture->graph);
            }
            if (capture->invalid) {
                throw Fault(cudaErrorStreamCaptureInvalidated,
                            "the capture was invalidated by an earlier error");
            }
            throw Fault(cudaErrorStreamCaptureUnjoined,
                        "a stream that was forked during capture was not joined to the first one");
        }
        *out = reinterpret_cast<cudaGraph_t>(capture->graph);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    return api([&] {
        fill_capture_info(find_stream(stream), status);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
    return api([&] {
        Stream& stream = find_stream(handle);
        fill_capture_info(stream, status);
        if (!stream.capture) {
            return cudaSuccess;
        }
        if (id) {
            *id = stream.capture->id;
        }
        if (graph) {
            *graph = reinterpret_cast<cudaGraph_t>(stream.capture->graph);
        }
        if (dependencies) {
            *dependencies = reinterpret_cast<const cudaGraphNode_t*>(stream.tail.data());
        }
        if (edges) {
            *edges = nullptr;
        }
        if (count) {
            *count = stream.tail.size();
        }
        return cudaSuccess;
    });
}

cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t handle, cudaGraphNode_t* dependencies,
                                                const cudaGraphEdgeData*, size_t count,
                                                unsigned flags) {
    return api([&] {
        Stream& stream = find_stream(handle);
        if (!stream.capture) {
            return cudaErrorIllegalState;
        }
        if (flags & cudaStreamSetCaptureDependencies) {
            stream.tail.clear();
        }
        for (size_t i = 0; i < count; ++i) {
            stream.tail.push_back(&find_node(dependencies[i]));
        }
        return cudaSuccess;
    });
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    return api([&] {
        std::swap(*mode, t_mode);
        return cudaSuccess;
    });
}

// ---- events ----

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags) {
    return api([&] {
        if (flags & ~(cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess)) {
            return cudaErrorInvalidValue;
        }
        auto* event = new Event;
        event->flags = flags;
        streams().events.insert(event);
        *out = reinterpret_cast<cudaEvent_t>(event);
        return cudaSuccess;
    });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
    return api([&] {
        Event* event = &find_event(handle);
        streams().events.erase(event);
        delete event;
        return cudaSuccess;
    });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    return api([&] {
        record_event(find_event(event), stream, flags);
        return cudaSuccess;
    });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, 0);
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
    return api([&] {
        if (const std::shared_ptr<Capture> capture = find_event(handle).capture.lock()) {
            invalidate(*capture);
            throw Fault(cudaErrorCapturedEvent,
                        "query of an event that was recorded in a capturing stream");
        }
        return cudaSuccess;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return cudaEventQuery(event);
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
    return api([&] {
        const Event& a = find_event(start);
        const Event& b = find_event(end);
        if (!a.recorded || !b.recorded || ((a.flags | b.flags) & cudaEventDisableTiming)) {
            return cudaErrorInvalidResourceHandle;
        }
        *ms = static_cast<float>((b.seconds - a.seconds) * 1e3);
        return cudaSuccess;
    });
}

}  // extern "C"
