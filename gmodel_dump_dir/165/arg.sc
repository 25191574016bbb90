ic_env/ld-linux-x86-64.so.2
--library-path ic_env/ /work/main/ic_env/Vkpu_top gmodel_dump_dir/165/gmodel.bin 100264 102414 1584 /work/main/gmodel_dump_dir/165/ 4 +perf +ckp +hang_10000 
 