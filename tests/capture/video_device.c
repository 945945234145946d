/* A double of a Video4Linux2 capture device: /dev/video97 for whatever process is started with this library preloaded.
 *
 * It answers the calls that OpenCV's own reader makes (linux/videodev2.h), so that reader is what the tests run. The
 * frames are the files VIDEO_DEVICE_FRAMES/0, 1, ..., one per buffer, over and over; VIDEO_DEVICE_FORMATS names the
 * pixel formats that it offers, four letters each, e.g. "YUYVMJPG". Buffers are one memory file, mapped as a driver's are.
 */
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
#include <time.h>
#include <unistd.h>

#define NAME "/dev/video97"
#define BUFFERS 4
#define ROOM (1 << 20)

static int device = -1, queued[BUFFERS], waiting, next_frame;
static unsigned char *memory;
static struct v4l2_pix_format format = {.width = 640, .height = 480};

static int device_open(void) {
    device = memfd_create("video97", 0);
    if (device < 0 || ftruncate(device, BUFFERS * ROOM) != 0) return -1;
    memory = mmap(NULL, BUFFERS * ROOM, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
    return memory == MAP_FAILED ? -1 : device;
}

int open(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    va_list more;
    if (!real) real = dlsym(RTLD_NEXT, "open");
    if (strcmp(path, NAME) == 0) return device_open();
    va_start(more, flags);
    mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open(path, flags, mode);
}

static int fail(int error) {
    errno = error;
    return -1;
}

static int offered(__u32 wanted) {
    const char *formats = getenv("VIDEO_DEVICE_FORMATS");
    for (; *formats; formats += 4)
        if (v4l2_fourcc(formats[0], formats[1], formats[2], formats[3]) == wanted) return 1;
    return 0;
}

static int filled(struct v4l2_buffer *buffer) {
    char path[4096];
    struct timespec pause = {0, 5000000};
    if (!waiting) return fail(EAGAIN);
    nanosleep(&pause, NULL); /* 200 frames a second, so that a reader's loop does not spin */
    int index = queued[0];
    memmove(queued, queued + 1, sizeof(int) * (size_t)--waiting);
    snprintf(path, sizeof path, "%s/%d", getenv("VIDEO_DEVICE_FRAMES"), next_frame);
    FILE *file = fopen(path, "rb");
    if (!file) {
        next_frame = 0;
        snprintf(path, sizeof path, "%s/0", getenv("VIDEO_DEVICE_FRAMES"));
        file = fopen(path, "rb");
    }
    if (!file) return fail(EIO);
    memset(memory + index * ROOM, 0xA5, ROOM); /* what an older frame left behind it */
    size_t size = fread(memory + index * ROOM, 1, ROOM, file);
    fclose(file);
    memset(buffer, 0, sizeof *buffer);
    *buffer = (struct v4l2_buffer){.index = (__u32)index, .type = V4L2_BUF_TYPE_VIDEO_CAPTURE,
        .memory = V4L2_MEMORY_MMAP, .bytesused = (__u32)size, .length = ROOM, .m.offset = (__u32)(index * ROOM),
        .sequence = (__u32)next_frame};
    next_frame++;
    return 0;
}

static int answer(unsigned long request, void *argument) {
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *is = argument;
        memset(is, 0, sizeof *is);
        strcpy((char *)is->driver, "double");
        is->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_G_INPUT: *(int *)argument = 0; return 0;
    case VIDIOC_S_INPUT: return 0;
    case VIDIOC_ENUMINPUT: return ((struct v4l2_input *)argument)->index ? fail(EINVAL) : 0;
    case VIDIOC_S_FMT:
    case VIDIOC_TRY_FMT: {
        struct v4l2_pix_format *asked = &((struct v4l2_format *)argument)->fmt.pix;
        const char *first = getenv("VIDEO_DEVICE_FORMATS");
        if (!offered(asked->pixelformat)) /* as drivers do: what is not had becomes what is */
            asked->pixelformat = v4l2_fourcc(first[0], first[1], first[2], first[3]);
        asked->bytesperline = asked->pixelformat == V4L2_PIX_FMT_YUYV ? 2 * asked->width : 0;
        asked->sizeimage = ROOM;
        asked->field = V4L2_FIELD_NONE;
        format = *asked;
        return 0;
    }
    case VIDIOC_G_FMT: ((struct v4l2_format *)argument)->fmt.pix = format; return 0;
    case VIDIOC_S_PARM:
    case VIDIOC_G_PARM: {
        struct v4l2_captureparm *pace = &((struct v4l2_streamparm *)argument)->parm.capture;
        pace->capability = V4L2_CAP_TIMEPERFRAME;
        pace->timeperframe = (struct v4l2_fract){1, 30};
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *asked = argument;
        if (asked->count > BUFFERS) asked->count = BUFFERS;
        waiting = 0;
        return 0;
    }
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *asked = argument;
        asked->length = ROOM;
        asked->m.offset = asked->index * ROOM;
        return 0;
    }
    case VIDIOC_QBUF: {
        int index = (int)((struct v4l2_buffer *)argument)->index;
        if (waiting >= BUFFERS) return fail(EINVAL);
        queued[waiting++] = index;
        return 0;
    }
    case VIDIOC_DQBUF: return filled(argument);
    case VIDIOC_STREAMON: return 0;
    case VIDIOC_STREAMOFF: waiting = 0; return 0;
    default: return fail(EINVAL);
    }
}

int ioctl(int file, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    va_list more;
    if (!real) real = dlsym(RTLD_NEXT, "ioctl");
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    return device >= 0 && file == device ? answer(request, argument) : real(file, request, argument);
}
