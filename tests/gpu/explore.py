import json, sys, time, os
import torch
from ray_s2v.model.lora import lora_config, with_lora
from ray_s2v.model.flow import clip_losses
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.model.fused.fuse import FastForm, fuse
from ray_s2v.model.fused.functions import AS_WRITTEN, compiled
from ray_s2v.model.fused.precision import narrow, narrow_layers
from ray_s2v.schema import Batch
import tests.gpu.step_14b as s

OUT = os.environ["OUT"]
def say(*a):
    print(*a, flush=True)
    with open(OUT + "/log.txt", "a") as f: print(*a, file=f)

def timed(f, n=5):
    f(); torch.cuda.synchronize()
    t=[]
    for _ in range(n):
        a,b=torch.cuda.Event(enable_timing=True),torch.cuda.Event(enable_timing=True)
        a.record(); f(); b.record(); torch.cuda.synchronize(); t.append(a.elapsed_time(b))
    return sorted(t)[n//2]

def kernels():
    a=torch.randn(8192,8192,device="cuda",dtype=torch.bfloat16); b=torch.randn_like(a)
    ms=timed(lambda:a@b,10); say("8192 bf16 TFLOP/s burst", 2*8192**3/ms/1e9)
    t0=time.time(); n=0
    torch.cuda.synchronize(); 
    while time.time()-t0<3:
        for _ in range(50): a@b
        torch.cuda.synchronize(); n+=50
    say("sustained", 2*8192**3*n/(time.time()-t0)/1e12)
    h=torch.empty(2**30,dtype=torch.uint8).pin_memory(); d=torch.empty(2**30,dtype=torch.uint8,device="cuda")
    say("h2d GB/s", 2**30/timed(lambda:d.copy_(h,non_blocking=True))/1e6, "d2h", 2**30/timed(lambda:h.copy_(d,non_blocking=True))/1e6)
    from ray_s2v.model.fused.attention import attention, attention_pullback
    S=31200
    q,k,v,g=(torch.randn(1,S,40,128,device="cuda",dtype=torch.bfloat16) for _ in range(4))
    for kern in ("cudnn","flash"):
        try:
            o,l=attention(q,k,v,kern); fw=timed(lambda:attention(q,k,v,kern)); bw=timed(lambda:attention_pullback(g,q,k,v,o,l,kern))
            say(kern,"self fwd",fw,4*S*S*5120/fw/1e9,"bwd",bw,10*S*S*5120/bw/1e9)
            kt,vt=k[:,:512],v[:,:512]; o,l=attention(q,kt,vt,kern)
            say(kern,"text fwd",timed(lambda:attention(q,kt,vt,kern)),"bwd",timed(lambda:attention_pullback(g,q,kt,vt,o,l,kern)))
        except Exception as e: say(kern,"failed",repr(e)[:300])
    qa,ka,va=(torch.randn(20,1560 if i==0 else 5,40,128,device="cuda",dtype=torch.bfloat16) for i in range(3))
    for kern in ("cudnn","flash","efficient"):
        try:
            o,l=attention(qa,ka,va,kern)
            say(kern,"audio fwd",timed(lambda:attention(qa,ka,va,kern)),"bwd",timed(lambda:attention_pullback(o,qa,ka,va,o,l,kern)))
        except Exception as e: say(kern,"audio failed",repr(e)[:300])
    x=torch.randn(S,5120,device="cuda",dtype=torch.bfloat16); A=torch.randn(48,5120,device="cuda",dtype=torch.bfloat16); low=torch.randn(S,48,device="cuda",dtype=torch.bfloat16)
    B=torch.randn(5120,16,device="cuda",dtype=torch.bfloat16)
    say("x@A.T",timed(lambda:x@A.t()),"low@A",timed(lambda:low@A),"low.T@x",timed(lambda:low.t()@x),"low16@B.T",timed(lambda:low[:,:16]@B.t()),"g.T@low16",timed(lambda:x.t()@low[:,:16]),"g@B",timed(lambda:x@B))
    W=torch.randn(5120,5120,device="cuda",dtype=torch.bfloat16); bias=W[0]
    say("x@W.T",timed(lambda:x@W.t()),"addmm bias",timed(lambda:torch.addmm(bias,x,W.t())),"g@W",timed(lambda:x@W))
    from ray_s2v.model.fused.quantize import quantized_rows
    xq,xs=quantized_rows(x); wq,ws=quantized_rows(W)
    say("fp8 5120",timed(lambda:torch._scaled_mm(xq,wq.t(),xs,ws.t(),out_dtype=torch.bfloat16,use_fast_accum=True)),"slow accum",timed(lambda:torch._scaled_mm(xq,wq.t(),xs,ws.t(),out_dtype=torch.bfloat16)))
    W=torch.randn(13824,5120,device="cuda",dtype=torch.bfloat16); wq,ws=quantized_rows(W)
    say("up bf16",timed(lambda:x@W.t()),"up fp8",timed(lambda:torch._scaled_mm(xq,wq.t(),xs,ws.t(),out_dtype=torch.bfloat16,use_fast_accum=True)),
        "transpose fp8",timed(lambda:wq.t().contiguous()))
    u=x@W.t(); uq,us=quantized_rows(u); wtq,wts=quantized_rows(W.t().contiguous())
    say("down bf16",timed(lambda:u@W),"down fp8",timed(lambda:torch._scaled_mm(uq,wtq.t(),us,wts.t(),out_dtype=torch.bfloat16,use_fast_accum=True)))

def build(precision, frames):
    s.FRAMES=frames
    net=s.random_network()
    for l in narrow_layers(net): narrow(l, precision, torch.device('cuda'), torch.device('cuda'))
    model=with_lora(net, lora_config(16,16,0.0,["to_q","to_k","to_v","to_out.0"],"all"), seed=0).train()
    for n,p in model.named_parameters():
        if "lora_B" in n: torch.nn.init.normal_(p,std=0.01)
    return model

def steps(model, batch, n=3, profile=None):
    params=[p for p in model.parameters() if p.requires_grad]
    opt=torch.optim.AdamW(params,lr=1e-4,fused=True)
    times=[]
    torch.cuda.reset_peak_memory_stats()
    for i in range(n+1):
        e=[torch.cuda.Event(enable_timing=True) for _ in range(4)]
        t0=time.time(); e[0].record()
        loss=clip_losses(model,batch,3.0).mean(); e[1].record(); loss.backward(); e[2].record(); opt.step(); opt.zero_grad(); e[3].record()
        torch.cuda.synchronize()
        times.append((round(time.time()-t0,3),*(round(e[j].elapsed_time(e[j+1])) for j in range(3)),round(loss.item(),4)))
    say(times, "peak", round(torch.cuda.max_memory_allocated()/2**30,2), "reserved", round(torch.cuda.max_memory_reserved()/2**30,2))
    if profile:
        from torch.profiler import profile as P, ProfilerActivity
        with P(activities=[ProfilerActivity.CUDA]) as prof:
            clip_losses(model,batch,3.0).mean().backward(); torch.cuda.synchronize()
        open(OUT+f"/{profile}.txt","w").write(prof.key_averages().table(sort_by="cuda_time_total",row_limit=60,max_name_column_width=90))
        opt.zero_grad()


def run_fp8(): 
    model=build("fp8",19); first=s.random_batch(False)
    network=model.base_model.model
    fs=compiled(print)
    for name,kw in (("v3",dict(units_on_host=0)),("v2",dict(units_on_host=51,blocks_with_feed_forward=40)),("v4",dict(units_on_host=26,blocks_with_feed_forward=10))):
        fuse(network, FastForm(fs,"cudnn",**kw), torch.device("cuda"))
        say("==",name,kw); t0=time.time()
        steps(model,first,3,profile=name); torch.cuda.empty_cache()
        say("took",time.time()-t0)

def main():
    for part in sys.argv[1:]:
        try: globals()["run_"+part]()
        except Exception:
            import traceback; say(part, traceback.format_exc()[-3000:])
        import gc; gc.collect(); torch.cuda.empty_cache(); say(part,"done",torch.cuda.memory_allocated()/2**30)
main()
