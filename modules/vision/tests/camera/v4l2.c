/* A Video4Linux camera for tests, preloaded into a module: what the module asks of the file CAMERA_DEVICE is answered
 * here, with the structures of the system's own <linux/videodev2.h>.
 *
 * Frames are CAMERA_FRAMES/0.frame to 2.frame, in turns, 10 ms apart, in the format CAMERA_FORMAT. Each fourth is marked
 * as damaged, holds nonsense and is a byte short. After 8 frames the camera is unplugged; it can be opened again, and
 * then stays. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BUFFERS = 2, BUFFER_BYTES = 1 << 16, FRAMES = 3, UNPLUGGED_AFTER = 8 };

static int camera = -1, opened, frames, streaming;
static int queued[BUFFERS];

static int open_camera(void) {
	camera = memfd_create("camera", 0);
	opened++;
	frames = streaming = 0;
	memset(queued, 0, sizeof queued);
	return camera < 0 || ftruncate(camera, BUFFERS * BUFFER_BYTES) ? -1 : camera;
}

static int is_camera(const char *path) {
	const char *device = getenv("CAMERA_DEVICE");
	return device && !strcmp(path, device);
}

#define OPEN(name)                                                                                                      \
	int name(const char *path, int flags, ...) {                                                                     \
		va_list rest;                                                                                            \
		va_start(rest, flags);                                                                                   \
		int mode = va_arg(rest, int);                                                                            \
		va_end(rest);                                                                                            \
		if (is_camera(path)) return open_camera();                                                               \
		int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);                                           \
		return real(path, flags, mode);                                                                          \
	}
OPEN(open)
OPEN(open64)

static int fail(int error) {
	errno = error;
	return -1;
}

static __u32 format_given(void) {
	const char *name = getenv("CAMERA_FORMAT");
	return v4l2_fourcc(name[0], name[1], name[2], name[3]);
}

/* Fills buffer `index` with the next frame; its length. */
static int fill(int index, int damaged) {
	char path[4096], bytes[BUFFER_BYTES];
	snprintf(path, sizeof path, "%s/%d.frame", getenv("CAMERA_FRAMES"), frames % FRAMES);
	FILE *file = fopen(path, "rb");
	if (!file) return 0;
	int length = fread(bytes, 1, sizeof bytes, file);
	fclose(file);
	if (damaged) memset(bytes, 0x55, length--);
	return pwrite(camera, bytes, length, index * BUFFER_BYTES);
}

static int answer(unsigned long request, void *argument) {
	struct v4l2_buffer *buffer = argument;
	switch (request) {
	case VIDIOC_QUERYCAP: {
		struct v4l2_capability *capability = argument;
		memset(capability, 0, sizeof *capability);
		strcpy((char *)capability->driver, "test");
		strcpy((char *)capability->card, "camera of paper");
		capability->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_DEVICE_CAPS;
		capability->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
		return 0;
	}
	case VIDIOC_ENUM_FMT: {
		struct v4l2_fmtdesc *format = argument;
		if (format->index > 0 || format->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
		format->pixelformat = format_given();
		return 0;
	}
	case VIDIOC_ENUM_FRAMESIZES: {
		struct v4l2_frmsizeenum *size = argument;
		if (size->index > 1) return fail(EINVAL);
		size->type = V4L2_FRMSIZE_TYPE_DISCRETE;
		size->discrete.width = size->discrete.height = size->index ? 32 : 16;
		return 0;
	}
	case VIDIOC_ENUM_FRAMEINTERVALS: {
		struct v4l2_frmivalenum *interval = argument;
		if (interval->index > 1) return fail(EINVAL);
		interval->type = V4L2_FRMIVAL_TYPE_DISCRETE;
		interval->discrete.numerator = 1;
		interval->discrete.denominator = interval->index ? 100 : 5;
		return 0;
	}
	case VIDIOC_S_PARM: {
		struct v4l2_streamparm *wanted = argument;
		struct v4l2_fract *interval = &wanted->parm.capture.timeperframe;
		/* The fastest that it has is asked for. */
		return interval->numerator == 1 && interval->denominator == 100 ? 0 : fail(EINVAL);
	}
	case VIDIOC_S_FMT: {
		struct v4l2_format *format = argument;
		if (format->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
		/* As drivers do: the nearest that it has. */
		format->fmt.pix.width = 16;
		format->fmt.pix.height = 16;
		format->fmt.pix.pixelformat = format_given();
		format->fmt.pix.field = V4L2_FIELD_NONE;
		format->fmt.pix.sizeimage = BUFFER_BYTES;
		return 0;
	}
	case VIDIOC_REQBUFS: {
		struct v4l2_requestbuffers *wanted = argument;
		if (wanted->memory != V4L2_MEMORY_MMAP) return fail(EINVAL);
		if (wanted->count > BUFFERS) wanted->count = BUFFERS;
		return 0;
	}
	case VIDIOC_QUERYBUF:
		if (buffer->index >= BUFFERS) return fail(EINVAL);
		buffer->length = BUFFER_BYTES;
		buffer->m.offset = buffer->index * BUFFER_BYTES;
		return 0;
	case VIDIOC_QBUF:
		if (buffer->index >= BUFFERS || queued[buffer->index]) return fail(EINVAL);
		queued[buffer->index] = 1;
		return 0;
	case VIDIOC_STREAMON:
		streaming = 1;
		return 0;
	case VIDIOC_STREAMOFF:
		streaming = 0;
		return 0;
	case VIDIOC_DQBUF: {
		int index = frames % BUFFERS, damaged = frames % 4 == 3;
		if (!streaming || !queued[index]) return fail(EINVAL);
		if (opened == 1 && frames == UNPLUGGED_AFTER) return fail(ENODEV);
		usleep(10000);
		queued[index] = 0;
		buffer->index = index;
		buffer->bytesused = fill(index, damaged);
		buffer->flags = damaged ? V4L2_BUF_FLAG_ERROR : 0;
		buffer->sequence = frames++;
		return 0;
	}
	}
	return fail(ENOTTY);
}

int ioctl(int fd, unsigned long request, ...) {
	va_list rest;
	va_start(rest, request);
	void *argument = va_arg(rest, void *);
	va_end(rest);
	if (fd == camera && camera >= 0) return answer(request, argument);
	int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
	return real(fd, request, argument);
}
