/* NVIDIA's management library, as far as attestation needs it. What is signed and by which chain
   comes from callbacks that the program sets. Layouts: nvml.h, "Confidential computing". */
#include <stddef.h>
#include <string.h>

typedef int (*bytes_of)(int device, const unsigned char *nonce, unsigned char *out, int room);
static bytes_of report_of, chain_of;
static int devices, sessions;

struct state { unsigned environment, feature, devtools; };
struct report {
    unsigned cec_present, size, cec_size;
    unsigned char nonce[32], report[0x2000], cec[0x1000];
};
struct certificate {
    unsigned size, attestation_size;
    unsigned char chain[0x1000], attestation_chain[0x1400];
};

void set_machine(int count, bytes_of report, bytes_of chain)
{
    devices = count;
    report_of = report;
    chain_of = chain;
}
int open_sessions(void) { return sessions; }

int nvmlInitWithFlags(unsigned flags) { (void)flags; sessions++; return 0; }
int nvmlShutdown(void) { sessions--; return 0; }
const char *nvmlErrorString(int code) { (void)code; return "an error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned room)
{
    strncpy(text, "580.159.03", room);
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = devices; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    *device = (void *)(size_t)(index + 1);
    return 0;
}
int nvmlDeviceGetArchitecture(void *device, unsigned *number)
{
    (void)device;
    *number = 9;
    return 0;
}
int nvmlDeviceGetName(void *device, char *text, unsigned room)
{
    (void)device;
    strncpy(text, "NVIDIA H100 of tests", room);
    return 0;
}
int nvmlDeviceGetVbiosVersion(void *device, char *text, unsigned room)
{
    (void)device;
    strncpy(text, "96.00.74.00.20", room);
    return 0;
}
int nvmlSystemGetConfComputeState(struct state *state)
{
    state->environment = 2;
    state->feature = 1;
    state->devtools = 0;
    return 0;
}
int nvmlSystemGetConfComputeGpusReadyState(unsigned *ready) { *ready = 1; return 0; }
int nvmlDeviceGetConfComputeGpuAttestationReport(void *device, struct report *answer)
{
    int index = (int)(size_t)device - 1;
    answer->size = report_of(index, answer->nonce, answer->report, sizeof answer->report);
    return 0;
}
int nvmlDeviceGetConfComputeGpuCertificate(void *device, struct certificate *answer)
{
    int index = (int)(size_t)device - 1, room = sizeof answer->attestation_chain;
    answer->attestation_size = chain_of(index, 0, answer->attestation_chain, room);
    return 0;
}
